// Settings of the OHIF viewer, read once by its page (window.config).
//
// The study list and the images come from the PACS through this server's /proxy/dicom. Added are the panel, an extension
// that OHIF imports from its address, and the mode that shows it: OHIF's segmentation mode with this panel at the right.
// The mode replaces MONAI Label's by taking its name: of two modes with one name OHIF keeps the first, and the modes
// named here come first.

const STOCK_MODE = '@ohif/mode-segmentation';
const PANEL = '/ohif/deep-film/panel.js';
const PROMPT = 'deep-film.panelModule.prompt';

const deepFilmMode = {
  id: '@ohif/mode-monai-label',
  async modeFactory({ loadModules }) {
    const [stock] = await loadModules([STOCK_MODE]);
    const mode = stock.modeFactory({ modeConfiguration: {} });
    const [route] = mode.routes;
    const layoutTemplate = (...parameters) => {
      const layout = route.layoutTemplate(...parameters);
      return { ...layout, props: { ...layout.props, leftPanelClosed: true, rightPanels: [PROMPT] } };
    };
    return {
      ...mode,
      id: '@ohif/mode-monai-label',
      routeName: 'monai-label',
      displayName: 'Deep FiLM',
      hangingProtocol: 'primaryAxial',
      isValidMode: ({ modalities }) => ({
        valid: modalities.split('\\').includes('CT'),
        description: 'Deep FiLM segments CT.',
      }),
      routes: [{ ...route, layoutTemplate }],
    };
  },
};

window.config = {
  routerBasename: '/ohif/',
  showStudyList: true,
  extensions: [PANEL],
  modes: [deepFilmMode],
  showLoadingIndicator: true,
  showCPUFallbackMessage: true,
  showWarningMessageForCrossOrigin: false,
  strictZSpacingForVolumeViewport: true,
  useSharedArrayBuffer: 'FALSE',
  defaultDataSourceName: 'dicomweb',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'dicomweb',
      configuration: {
        friendlyName: 'PACS of this server',
        name: 'PACS',
        qidoRoot: '/proxy/dicom/qido',
        wadoRoot: '/proxy/dicom/wado',
        wadoUriRoot: '/proxy/dicom/wado',
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: false,
        qidoSupportsIncludeField: true,
        supportsFuzzyMatching: true,
        supportsWildcard: true,
        bulkDataURI: { enabled: true },
      },
    },
  ],
};
